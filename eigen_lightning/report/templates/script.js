(function () {
  "use strict";
  var list = document.getElementById("cards");
  var filter = document.getElementById("filter");
  var sort = document.getElementById("sort");
  var shown = document.getElementById("shown");
  if (!list) return;
  var cards = Array.prototype.slice.call(list.children);
  var texts = null;
  var noun = shown.textContent.replace(/^\d+ /, "");

  function plain(text) { return text.toLowerCase().replace(/\s+/g, " "); }

  function apply() {
    if (!texts) texts = cards.map(function (card) {
      var own = card.querySelector(".own-label");
      return plain(card.textContent + " " + (own ? own.value : ""));
    });
    var wanted = plain(filter.value).trim();
    var count = 0;
    cards.forEach(function (card, index) {
      var hit = texts[index].indexOf(wanted) >= 0;
      card.hidden = !hit;
      if (hit) count += 1;
    });
    shown.textContent = count === cards.length ? count + " " + noun : count + " of " + cards.length + " " + noun;
  }

  function order() {
    var key = sort.value;
    cards.slice()
      .sort(function (a, b) { return Number(b.dataset[key]) - Number(a.dataset[key]) || Number(b.dataset.index) - Number(a.dataset.index); })
      .forEach(function (card) { list.appendChild(card); });
  }

  function arrive() {
    var card = /^#direction-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!card) return;
    if (card.hidden) { filter.value = ""; apply(); }
    card.focus({ preventScroll: true });
    // Cards out of sight have guessed heights until they come near: arriving takes a few frames.
    var frames = 6;
    (function settle() {
      card.scrollIntoView();
      frames -= 1;
      if (frames) requestAnimationFrame(settle);
    })();
  }

  // A person's own labels: kept in this browser, saved as labels.json for the run's folder.
  var fields = Array.prototype.slice.call(document.querySelectorAll(".own-label"));
  var key = "eigen_lightning labels " + document.body.dataset.run;
  function labels() {
    var all = {};
    fields.forEach(function (field) { if (field.value.trim()) all[field.dataset.direction] = field.value.trim(); });
    return all;
  }
  var kept = null;
  try { kept = JSON.parse(localStorage.getItem(key)); } catch (error) { kept = null; }
  fields.forEach(function (field) {
    if (kept && field.dataset.direction in kept) field.value = kept[field.dataset.direction];
    field.addEventListener("input", function () {
      texts = null;
      try { localStorage.setItem(key, JSON.stringify(labels())); } catch (error) { /* a browser that keeps nothing */ }
    });
  });
  var save = document.getElementById("export");
  if (save) save.addEventListener("click", function () {
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(labels(), null, 2) + "\n"], { type: "application/json" }));
    link.download = "labels.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  filter.addEventListener("input", apply);
  sort.addEventListener("change", order);
  document.getElementById("tools").addEventListener("submit", function (event) { event.preventDefault(); });
  document.addEventListener("keydown", function (event) {
    var typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); filter.focus(); }
    if (event.key === "Escape" && event.target === filter) { filter.value = ""; apply(); }
  });
  window.addEventListener("hashchange", arrive);
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (one) { one.open = true; });
  });
  arrive();
})();
