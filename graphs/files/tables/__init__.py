"""Files of tables: what several circuits measure on several tasks."""
