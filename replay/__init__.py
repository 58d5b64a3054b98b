"""The same engine on recorded time: sources, their merge into one order, the driver, the audit."""
