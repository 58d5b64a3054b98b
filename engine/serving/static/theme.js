// The theme, before anything is drawn: what was chosen, else what the system prefers. Not a module, so that it runs at once.
(() => {
  const preferred = matchMedia("(prefers-color-scheme: light)");
  const chosen = () => {
    try {
      return localStorage.getItem("tickfold.theme");
    } catch {
      return null; // storage is forbidden: the system's preference holds
    }
  };
  const apply = () => {
    const theme = chosen() ?? (preferred.matches ? "light" : "dark");
    document.documentElement.dataset.theme = theme;
    dispatchEvent(new CustomEvent("themechange", { detail: theme }));
  };
  preferred.addEventListener("change", apply);
  addEventListener("toggletheme", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("tickfold.theme", next);
    } catch {
      document.documentElement.dataset.theme = next;
      dispatchEvent(new CustomEvent("themechange", { detail: next }));
      return;
    }
    apply();
  });
  apply();
})();
