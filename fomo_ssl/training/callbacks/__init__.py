"""What happens beside training: previews, progress."""
