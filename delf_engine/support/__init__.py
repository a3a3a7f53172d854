"""What every room needs of the system and of NumPy: files, locks, threads, processes, checks of arrays."""
