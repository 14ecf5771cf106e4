"""raymoe: one command line. Each command is a file of ``pipelines.commands``.

A command imports what it needs when it runs, so that ``--help`` and the planner start at once.
"""

from typing import Annotated

import typer

import moe
from pipelines.commands import (
    advise,
    bench,
    checkpoint,
    compress,
    evaluate,
    fetch,
    init,
    inspect,
    jobs,
    kube,
    kube_runs,
    kube_verbs,
    merge,
    metrics,
    plan,
    presets,
    profile,
    rebalance,
    report,
    scale,
    serve,
    simulate,
    stop,
    study,
    submit,
    tokenize,
    train,
    upcycle,
)
from pipelines.screen.terminal import say

app = typer.Typer(
    help="Turn dense language models into mixture-of-experts models, train and serve them on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
fetching = typer.Typer(help="Download a real model or real text.", no_args_is_help=True)
kubernetes = typer.Typer(help="Runs and servers on Kubernetes.", no_args_is_help=True)
job_list = typer.Typer(help="Jobs of a Ray cluster.", no_args_is_help=True)
benches = typer.Typer(help="Measure a server that runs.", no_args_is_help=True)
checkpoints = typer.Typer(help="Convert checkpoints of training runs.", no_args_is_help=True)


def _example(command: str) -> str:
    return f"Example: {command}"


fetching.command("smollm2", epilog=_example(fetch.SMOLLM2_EXAMPLE))(fetch.smollm2)
fetching.command("text", epilog=_example(fetch.TEXT_EXAMPLE))(fetch.text)
fetching.command("chats", epilog=_example(fetch.CHATS_EXAMPLE))(fetch.chats)
app.add_typer(fetching, name="fetch")
app.command(epilog=_example(tokenize.EXAMPLE))(tokenize.tokenize)
app.command(epilog=_example(presets.EXAMPLE))(presets.presets)
app.command(epilog=_example(init.EXAMPLE))(init.init)
app.command(epilog=_example(upcycle.EXAMPLE))(upcycle.upcycle)
app.command(epilog=_example(inspect.EXAMPLE))(inspect.inspect)
app.command(epilog=_example(compress.EXAMPLE))(compress.compress)
app.command(epilog=_example(merge.EXAMPLE))(merge.merge)
app.command(epilog=_example(advise.EXAMPLE))(advise.advise)
app.command(epilog=_example(profile.EXAMPLE))(profile.profile)
app.command(epilog=_example(plan.EXAMPLE))(plan.plan)
app.command(epilog=_example(simulate.EXAMPLE))(simulate.simulate)
app.command(epilog=_example(rebalance.EXAMPLE))(rebalance.rebalance)
app.command(epilog=_example(train.EXAMPLE))(train.train)
app.command(epilog=_example(scale.EXAMPLE))(scale.scale)
app.command(epilog=_example(evaluate.EXAMPLE))(evaluate.evaluate)
app.command(epilog=_example(study.EXAMPLE))(study.study)
app.command(epilog=_example(report.EXAMPLE))(report.report)
app.command(epilog=_example(serve.EXAMPLE))(serve.serve)
benches.command("serve", epilog=_example(bench.EXAMPLE))(bench.serve)
app.add_typer(benches, name="bench")
checkpoints.command("convert", epilog=_example(checkpoint.EXAMPLE))(checkpoint.convert)
app.add_typer(checkpoints, name="checkpoint")
app.command(epilog=_example(metrics.EXAMPLE))(metrics.metrics)
app.command(epilog=_example(submit.EXAMPLE))(submit.submit)
job_list.command("list", epilog=_example(jobs.LIST_EXAMPLE))(jobs.list_)
job_list.command("logs", epilog=_example(jobs.LOGS_EXAMPLE))(jobs.logs)
job_list.command("stop", epilog=_example(jobs.STOP_EXAMPLE))(jobs.stop)
app.add_typer(job_list, name="jobs")
app.command(epilog=_example(stop.EXAMPLE))(stop.stop)
kubernetes.command("render", epilog=_example(kube.EXAMPLE))(kube.render)
for verb, example in (
    (kube_verbs.apply, kube_verbs.APPLY_EXAMPLE),
    (kube_verbs.status, kube_verbs.STATUS_EXAMPLE),
    (kube_verbs.watch, kube_verbs.WATCH_EXAMPLE),
    (kube_verbs.logs, kube_verbs.LOGS_EXAMPLE),
    (kube_verbs.token, kube_verbs.TOKEN_EXAMPLE),
    (kube_verbs.dashboard, kube_verbs.DASHBOARD_EXAMPLE),
    (kube_runs.submit, kube_runs.SUBMIT_EXAMPLE),
    (kube_runs.scale, kube_runs.SCALE_EXAMPLE),
    (kube_verbs.delete, kube_verbs.DELETE_EXAMPLE),
    (kube_verbs.doctor, kube_verbs.DOCTOR_EXAMPLE),
):
    kubernetes.command(epilog=_example(example))(verb)
app.add_typer(kubernetes, name="kube")


def _show_version(asked: bool) -> None:
    if asked:
        say(f"raymoe {moe.__version__}")
        raise typer.Exit


@app.callback()
def raymoe(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Turn dense language models into mixture-of-experts models, train and serve them on Ray."""
