"""Where the engine lives: in a thread beside the functions, or in a process of its own."""
