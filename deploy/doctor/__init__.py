"""`make doctor`: checks what must agree, in files and in the running stack, and says what to do."""
