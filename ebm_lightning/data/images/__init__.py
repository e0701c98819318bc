"""Images: by name, from the hub, their preprocessing and augmentations."""
