"""Roles of heads with what they cause: a pattern of attention, and an effect by path patching."""
