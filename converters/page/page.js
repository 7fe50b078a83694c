"use strict";
// What the server says is put on the screen as text, never as markup.

const at = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// REALM: the block, with the answer marked. Python counts characters, JavaScript halves of some.
function block(answer) {
  const characters = Array.from(answer.block);
  const part = (from, to) => characters.slice(from, to).join("");
  return element("blockquote", {},
    part(0, answer.start), element("mark", {}, part(answer.start, answer.end)),
    part(answer.end));
}

function bar(share) {
  const inner = element("span", { className: "bar" });
  inner.style.width = `${100 * share}%`;
  return element("span", { className: "track" }, inner);
}

// RAG: the answer's tokens, the darker the more this passage has to do with them.
function tokens(answer, passage) {
  const spans = answer.tokens.map((token, place) => {
    const share = passage.shares_per_token[place];
    const span = element("span", { className: "token", title: share.toFixed(3) }, token || "·");
    span.dataset.share = share;
    if (place === answer.tokens.length - 1) span.classList.add("end");
    span.style.backgroundColor = `rgba(var(--accent), ${(0.7 * share).toFixed(3)})`;
    return span;
  });
  return element("div", { className: "tokens" }, ...spans);
}

function passage(answer, found) {
  const shown = element("div", { className: "passage" },
    bar(found.share), ` ${percent(found.share)} `,
    element("strong", {}, found.title),
    element("span", { className: "faint" }, ` passage ${found.id}, ${found.score.toFixed(2)}`));
  if (found.shares_per_token) shown.append(tokens(answer, found));
  shown.append(element("details", { open: found.share >= 0.2 },
    element("summary", {}, "Text"), element("blockquote", {}, found.text)));
  return shown;
}

function shownAnswer(answer) {
  const shown = element("section", { className: "answer" },
    element("h2", {}, answer.text.trim() || "(no words)"));
  if (answer.passages) {
    const ordered = [...answer.passages].sort((a, b) => b.share - a.share);
    shown.append(
      element("p", { className: "faint" }, `probability ${answer.probability.toPrecision(3)}`),
      ...ordered.map((found) => passage(answer, found)));
  } else {
    const scores = `score ${answer.score.toFixed(2)}: reader ${answer.reader_score.toFixed(2)}, `
      + `block ${answer.block_id} ${answer.retriever_score.toFixed(2)}`;
    shown.append(element("p", { className: "faint" }, scores), block(answer));
  }
  return shown;
}

function times(found) {
  const row = (name, seconds) => element("tr", {},
    element("td", {}, name),
    element("td", { className: "number" }, `${(1000 * seconds).toFixed(1)} ms`),
    element("td", {}, bar(found.total ? Math.min(seconds / found.total, 1) : 0)));
  const rows = Object.entries(found.seconds).map(([name, seconds]) => row(name, seconds));
  return element("table", {}, ...rows, row("in all", found.total));
}

function show(found) {
  at("status").textContent = found.notes.join(" ");
  at("answers").replaceChildren(...found.answers.map(shownAnswer));
  if (!found.answers.length) at("answers").textContent = "No answer in what was read.";
  at("times").replaceChildren(times(found));
}

async function asJson(response) {
  try {
    return await response.json();
  } catch {
    return { error: `the server answered ${response.status} and no JSON` };
  }
}

async function ask(event) {
  event.preventDefault();
  at("ask").disabled = true;
  at("error").textContent = "";
  at("status").textContent = "Answering…";
  at("answers").replaceChildren();
  at("times").replaceChildren();
  try {
    const body = { question: at("question").value, n_best: Number(at("n-best").value) };
    const response = await fetch("/answer", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const found = await asJson(response);
    at("status").textContent = "";
    if (found.error) at("error").textContent = found.error;
    else show(found);
  } catch (error) {
    at("status").textContent = "";
    at("error").textContent = `The server does not answer: ${error.message}`;
  } finally {
    at("ask").disabled = false;
  }
}

at("form").addEventListener("submit", ask);
fetch("/about").then(asJson).then((about) => {
  if (about.error) at("error").textContent = about.error;
  else at("about").textContent = `${about.model}, ${about.passages ?? "?"} passages`;
}).catch(() => { at("error").textContent = "The server does not answer."; });
