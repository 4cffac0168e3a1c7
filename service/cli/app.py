"""`emberwatch` and its commands."""

import typer

from service.cli import (
    alerts,
    bench,
    dashboard,
    demo,
    evaluate,
    forward,
    keys,
    replay,
    serve,
    simulate,
    state,
    studies,
    train,
)

app = typer.Typer(help="Early warning of battery-thermal events for fleets of electric vans.", no_args_is_help=True)
app.command("serve")(serve.serve)
app.command("dashboard")(dashboard.dashboard)
app.command("forward")(forward.forward)
app.command("replay")(replay.replay)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(alerts.app, name="alerts")
app.add_typer(keys.app, name="keys")
app.add_typer(bench.app, name="bench")
app.add_typer(state.app, name="state")
app.add_typer(studies.app, name="study")
