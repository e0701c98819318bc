"""Parts of protocols: threat models, corruptions, scores, sources of samples."""
