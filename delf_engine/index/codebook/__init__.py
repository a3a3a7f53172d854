"""Visual words and mixtures of Gaussians: trained, kept in files, and how descriptors find their words."""
