"""The daily view: what each van and the fleet did day by day, and what the next day and week will ask of the depot.

Telemetry becomes days (`local_days`, `day_sums`, `recorded_days`, `trend_days`), days become a table (`day_table`), the table
becomes rows to learn from (`rows`), and those become forecasts with intervals (`forecasts`) that are judged (`judged`) and
written up (`study`). docs/studies.md tells what is assumed.
"""
