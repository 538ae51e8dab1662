"""What operations return: frozen attrs values, a module for each operation. Users import them from the package."""
