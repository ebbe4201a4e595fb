"""What callers give: checked in one place, and made safe to show."""
