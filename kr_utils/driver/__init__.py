"""The engine: plan, run and report stages. Never torch."""
