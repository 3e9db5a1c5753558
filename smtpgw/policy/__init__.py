"""Who may send what where: decisions at the door, each with its reply."""
