"""How the sandbox paints: words to a brief, a brief to colours, shapes, light and a finish."""
