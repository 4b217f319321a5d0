"""``vlmadapt demo``: everything once, on pictures that come with the package."""

from __future__ import annotations

from vlmadapt.cli.compare import report_comparison
from vlmadapt.cli.console import note, say
from vlmadapt.cli.options import command
from vlmadapt.experiments.options import METHODS, CompareOptions, DemoOptions

DATA = "clipart"
ADAPTERS = METHODS
SHOTS = (1, 2, 4, 8, 16)
SAVED = "xmadapter"


@command(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Adapt the embedded backbone to clip-art in 32 classes at 1 to 16 shots, with five methods.

    Ends with a table, a curve, a report and a saved classifier. Interrupted, the same command goes on where it stopped.
    """
    from vlmadapt.classifier import Classifier, DataSource
    from vlmadapt.data import sample_shots
    from vlmadapt.experiments import front, sources
    from vlmadapt.experiments.single import describe_run
    from vlmadapt.experiments.store import FitKey, FolderFits
    from vlmadapt.provenance.place import hold
    from vlmadapt.provenance.settings import Method
    from vlmadapt.reporting.explanation import draw_prediction

    out = options.out
    dataset = sources.open_dataset(DATA, options)
    extraction = sources.extraction_of(options)
    with hold(out):
        encoder = sources.open_encoder(options)
        fits = FolderFits(out / "fits")
        asked = CompareOptions(
            adapters=ADAPTERS,
            shots=SHOTS,
            seeds=options.seeds,
            out=out,
            keep_fits=True,
            overwrite=options.overwrite,
            encoder=encoder,
            cache=options.cache,
            no_cache=options.no_cache,
            report=note,
        )
        results = front.comparison(dataset, asked, kind="demo")
        report_comparison(results, out, dataset)

        key = FitKey(SAVED, SHOTS[-1], 0)
        split = sample_shots(dataset, key.shots, key.seed)
        method, config, measures = Method(SAVED, SAVED), results.methods[SAVED], fits.measures(key)
        run = describe_run(dataset, DataSource(DATA), encoder, split, method, config, extraction, measures)
        classifier = Classifier(fits.get(key, encoder), encoder, run)
        folder = classifier.save(out / "classifier")
        sample = dataset.test[0]
        prediction = classifier.predict([sample.path], votes=5, extraction=extraction)[0]
        evidence = draw_prediction(prediction, out / "evidence.png")
        fits.remove(results)
    say(f"evidence: {evidence} (a test picture beside the support pictures that decided)")
    say(f"classifier: {folder} ({SAVED}, {key.shots} shots)", "green")
    say("Use it on a picture of your own:")
    say(f"  vlmadapt predict {folder} PICTURE --explain --explain-picture why.png", "bold")
