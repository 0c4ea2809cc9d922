"""What people and programs read: report, model card, TRIPOD table, terminal."""
