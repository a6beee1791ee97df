"""python -m benchmarks.bench.scripts.torch_mnist EPOCHS OUT"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.bench.scripts import common


def main() -> None:
  epochs, out = int(sys.argv[1]), Path(sys.argv[2])
  out.mkdir(parents=True, exist_ok=True)
  torch.manual_seed(0)
  sets = common.mnist()
  tensors = {name: torch.from_numpy(x) for name, (x, _) in sets.items()}
  labels = torch.from_numpy(sets["train"][1])
  loader: Any = DataLoader(
    TensorDataset(tensors["train"], labels), batch_size=128, shuffle=True
  )
  first = torch.nn.Linear(784, 64)
  model = torch.nn.Sequential(
    *(first, torch.nn.Sigmoid(), torch.nn.Linear(64, 16), torch.nn.Tanh()),
    torch.nn.Linear(16, 10),
  )
  for layer in model:
    if isinstance(layer, torch.nn.Linear):
      torch.nn.init.xavier_uniform_(layer.weight)
      torch.nn.init.zeros_(layer.bias)
  optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
  loss_fn = torch.nn.CrossEntropyLoss()

  @torch.no_grad()
  def probabilities(part: str) -> Any:
    return torch.softmax(model(tensors[part]), dim=1).numpy()

  rows = []
  for epoch in range(epochs + 1):
    for x, y in loader if epoch else ():
      optimizer.zero_grad()
      loss_fn(model(x), y).backward()
      optimizer.step()
    row = {"epoch": float(epoch)}
    for part in ("train", "dev"):
      found = common.measures(probabilities(part), sets[part][1])
      row[f"{part}_loss"], row[f"{part}_accuracy"] = found
    rows.append(row)
    common.record(out, rows)
    print(row, file=sys.stderr)
  p = probabilities("test")
  print("test loss and accuracy", *common.measures(p, sets["test"][1]))
  torch.save(model.state_dict(), out / "weights.pt")
  w = first.weight.detach().numpy().T
  common.draw(out, rows, w, sets["test"], p)


if __name__ == "__main__":
  main()
