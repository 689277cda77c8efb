// Found pages are shown with what is around the words, for which each of them is fetched: no browser allows that to a
// page that was opened from a file.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";

// What the theme leaves out for those who don't see the page, or have no mouse.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".sidebar-drawer").ariaLabel = "Pages";
  document.querySelector(".toc-drawer").ariaLabel = "This page";
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) caption.ariaLevel = "2";
  for (const scrolled of document.querySelectorAll("pre, .table-wrapper")) scrolled.tabIndex = 0;
  // A long name in a table may go on in the next line, rather than leave no room for what it means.
  for (const name of document.querySelectorAll("td code .pre")) {
    name.innerHTML = name.innerHTML.replace(/([._])(?=\w)/g, "$1<wbr>");
  }
});
