"""The images workload: a picture becomes renditions and a contact sheet."""
