"""The programs that are compared, each in a process of its own that waits while another one works."""
