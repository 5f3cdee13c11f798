"""The command line, one file a group of commands: words in, words out. Begins in `main`."""
