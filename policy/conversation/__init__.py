"""From text and images to ids and back, in the model's own chat template."""
