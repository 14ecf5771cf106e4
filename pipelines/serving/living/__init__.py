"""A server that answers with the ranks of a training run.

Ranks obey one driver, which commands the steps. Between two steps it takes batches from a *desk*
and has the ranks of one replica run them; the server puts batches there and reads what came back.

    server              desk                    driver of the run           ranks
    turn ------------>  |                       |
                        |  <------------ take   | after a step
    <-- a turn is on    |                       |
    run(batch) ------>  |  batch ------------>  | infer(batch) ---------->  |
                        |  <---------- answer   | <------------- tokens     |
    <------- tokens     |                       |
                        |  <------------ over   | the next step ---------->  |

    model      what a server of a run serves
    attaching  finds a run, leaves it a desk and waits to be let in
    engine     the desk as the server's scheduler uses it: an engine
    reach      how either side speaks to the desk, and the server to the board of the run
    desk       the actor between a server and a driver; it belongs to the server
    terms      the values that go back and forth

A module imports only from modules on lower lines.
"""
