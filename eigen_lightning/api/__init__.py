"""Functions for Python and the command line alike."""
