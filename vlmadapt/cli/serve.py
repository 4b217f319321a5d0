"""``vlmadapt serve``: a saved classifier as a small page on this computer."""

from __future__ import annotations

from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import RunArgument, command, pick_device
from vlmadapt.serving.options import ServeOptions


@command(ServeOptions)
def serve(run: RunArgument, options: ServeOptions) -> None:
    """Show a page that classifies the pictures dropped onto it, with evidence; other programs ask /predict.

    It is for this computer alone unless --host says otherwise; the address that is printed holds a token then. Ctrl-C
    ends it.
    """
    from vlmadapt.classifier import Classifier, read_run
    from vlmadapt.serving import app
    from vlmadapt.serving.answer import Answers
    from vlmadapt.serving.place import Place

    read_run(run)  # before the port is taken, and before the backbone is read
    place = Place.take(options.host, options.port)
    try:
        answers = Answers(Classifier.load(run, device=pick_device(options.device)), options.abstain)
    except BaseException:
        place.listening.close()
        raise
    say(place.url)
    if place.token is not None:
        note("whoever has this address can use the classifier; it travels unencrypted")
    if options.open:
        import webbrowser

        webbrowser.open(place.url)  # it waits: the place listens already
    app.run(app.server_of(app.make_app(answers, place)), place)
