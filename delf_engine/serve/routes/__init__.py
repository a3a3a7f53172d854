"""The routes, a router each: pairs and searches, images and jobs, verdicts, health."""
