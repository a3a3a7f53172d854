"""Published models to checkpoints of this package: DELF and DELG (TensorFlow), HOW, torchvision, DINOv2.

Nothing here needs TensorFlow. `convert.import_model` does all of it.
"""
