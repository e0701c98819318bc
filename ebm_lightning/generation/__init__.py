"""From a trained model: samples and text."""
