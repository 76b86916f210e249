"""What inference needs of a network; knows nothing of video files."""
