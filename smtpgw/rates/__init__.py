"""How often clients come: counts for all workers of a machine, or of several (anvil(8))."""
