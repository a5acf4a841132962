"""Commands that stand above the room that does their work and above what shows it or trains."""
