"""A job that scores rows by a trained flow: shares, pieces, and the file of all scores."""
