from pathlib import Path
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "robustness.json"
def write() -> None: pass
