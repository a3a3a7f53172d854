"""The protocol of ROxford5k and RParis6k, on the whole sets and on the photographs of Paris at hand."""
