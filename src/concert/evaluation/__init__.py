"""From certification logs to metrics, tables, figures and reports."""
