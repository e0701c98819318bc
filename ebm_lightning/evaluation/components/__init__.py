"""What protocols are made of: threat models, corruptions, scores, sources of samples."""
