"use strict";
const byId = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const headers = token ? { Authorization: `Bearer ${token}` } : {};
let asked = 0;

function made(tag, text, kind) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

// As the command line has it: nothing is called certain that is not.
function percent(value) {
  if (value > 0.999) return "> 99.9 %";
  return value < 0.001 ? "< 0.1 %" : `${(100 * value).toFixed(1)} %`;
}

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").className = wrong ? "wrong" : "";
}

async function answerOf(response) {
  const found = await response.json().catch(() => ({ error: "the server gave no answer." }));
  if (!response.ok) throw new Error(found.error || "the server gave no answer.");
  return found;
}

function classRow({ name, probability }) {
  const row = made("tr");
  const head = made("th", name);
  head.scope = "row";
  const meter = made("meter");
  meter.value = probability;
  meter.setAttribute("aria-hidden", "true");
  const cell = made("td");
  cell.append(meter, percent(probability));
  row.append(head, cell);
  return row;
}

function voteItem(vote, first) {
  const figure = made("figure");
  const kind = vote.class === first ? "agrees" : "";
  if (vote.picture) {
    const image = made("img", undefined, kind);
    image.src = vote.picture;
    image.alt = `A support picture of ${vote.class}`;
    figure.append(image);
  } else {
    figure.append(made("div", "picture is gone", "gone"));
  }
  figure.append(made("figcaption", `${vote.class}, ${(100 * vote.share).toFixed(1)} % of the vote`));
  const item = made("li");
  item.append(figure);
  return item;
}

function show(found, file) {
  const picture = byId("picture");
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(file);
  const first = found.classes[0].name;
  byId("answer").textContent = found.abstained ? `None of the classes, most like ${first}` : first;
  byId("classes").replaceChildren(...found.classes.map(classRow));
  byId("evidence").hidden = found.votes.length === 0;
  byId("votes").replaceChildren(...found.votes.map((vote) => voteItem(vote, first)));
  byId("result").hidden = false;
  say(`${byId("answer").textContent}: ${percent(found.classes[0].probability)}`);
  byId("answer").focus();
}

async function ask(file) {
  const number = ++asked;
  byId("result").hidden = true;
  say("Looking at the picture …");
  try {
    const kind = "application/octet-stream";
    const response = await fetch("/predict?top=5&votes=8", {
      method: "POST", body: file, headers: { ...headers, "Content-Type": kind },
    });
    const found = await answerOf(response);
    if (number === asked) show(found, file);
  } catch (error) {
    if (number !== asked) return;
    const lost = error instanceof TypeError;
    say(lost ? "The server cannot be reached: has it been stopped?" : `Error: ${error.message}`, true);
  }
}

const drop = byId("drop");
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) ask(file); else say("Drop a picture file.", true);
});
byId("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  if (file) ask(file);
});

fetch("/about", { headers }).then(answerOf).then((about) => {
  document.title = `${about.name} · vlmadapt`;
  byId("name").textContent = about.name;
  const shots = `${about.shots} picture${about.shots === 1 ? "" : "s"} a class`;
  byId("about").textContent = `${about.adapter}, ${shots}, ${about.class_names.length} classes`;
  byId("names").replaceChildren(...about.class_names.map((name) => made("li", name)));
}).catch((error) => say(`Error: ${error.message}`, true));
