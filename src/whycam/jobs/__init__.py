"""One file a command: what the command line calls, from files to a finished result folder."""
