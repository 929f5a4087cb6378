"""A development SMTP sink with a web page: accepts every mail, delivers none."""
