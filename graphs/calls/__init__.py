"""What public calls take, checked in one place."""
