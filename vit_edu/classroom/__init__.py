"""What authors and teachers need: lessons derived from solutions, the course as pages."""
