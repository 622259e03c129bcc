#compdef preflight
# zsh completion of preflight: source <(preflight completion zsh), behind compinit
_preflight() {
    local -a lines names
    lines=("${(@f)$(command "${words[1]}" complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    lines=("${(@)lines:#}")
    if (( $#lines == 0 )); then
        _files
        return
    fi
    names=("${(@)lines%%$'\t'*}")
    lines=("${(@)lines//$'\t'/  }")
    compadd -l -d lines -a names
}
compdef _preflight preflight
