"""raybench on a real GPU: whether it is right there, how fast it is, and what it says when something breaks."""
