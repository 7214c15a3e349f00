/* The report of a subject: figures in full size, and folded parts opened for printing. */
"use strict";

(() => {
  const dialog = document.getElementById("full-size");
  const large = dialog.querySelector("img");

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.full-size");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    large.src = link.href;
    large.alt = link.querySelector("img").alt;
    dialog.showModal();
  });
  dialog.addEventListener("click", () => dialog.close());

  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
    for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
  });
  window.addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });

  // A link to a folded step opens it.
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  window.addEventListener("hashchange", open);
  open();
})();
