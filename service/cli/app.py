"""`emberwatch` and its commands."""

import typer

from service.cli import demo, replay, serve, simulate, state, train

app = typer.Typer(help="Early warning of battery-thermal events for fleets of electric vans.", no_args_is_help=True)
app.command("serve")(serve.serve)
app.command("replay")(replay.replay)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("train")(train.train)
app.add_typer(state.app, name="state")
