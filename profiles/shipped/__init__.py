"""Profile texts that come with the code, so that the main job does not wait for a model."""
