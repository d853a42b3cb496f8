"""What each verb of the command line does, callable from Python."""
