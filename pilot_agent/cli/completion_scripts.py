"""The completion scripts. All ask `pilot-agent __complete`, so that they never grow old."""

from typing import Final

_BASH: Final = """\
# bash completion for pilot-agent
_pilot_agent() {
    local line word current typed=() shown=()
    read -ra typed <<< "${COMP_LINE:0:COMP_POINT}"
    [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && typed+=('')
    current=${typed[${#typed[@]}-1]}
    COMPREPLY=()
    while IFS= read -r line; do
        word=${line%%$'\\t'*}
        [[ $current == *=* ]] && word=${word#*=}
        COMPREPLY+=("$word")
        shown+=("$word  (${line#*$'\\t'})")
    done < <("${typed[0]}" __complete "${typed[@]:1}" 2>/dev/null)
    @LIST@
}
complete -o default -F _pilot_agent pilot-agent
"""
_BASH_LIST: Final = """\
if ((${#COMPREPLY[@]} > 1 && COMP_TYPE == 63)); then COMPREPLY=("${shown[@]}"); fi"""

_FISH: Final = """\
# fish completion for pilot-agent
function __pilot_agent_complete
    set -l typed (commandline -opc)
    set -l found ($typed[1] __complete $typed[2..-1] (commandline -ct) 2>/dev/null)
    if test (count $found) -eq 0
        __fish_complete_path (commandline -ct)
    else
        @LIST@
    end
end
complete -c pilot-agent -f -a '(__pilot_agent_complete)'
"""

_ZSH: Final = """\
#compdef pilot-agent
_pilot_agent() {
    local line word
    local -a found described
    while IFS= read -r line; do
        word=${line%%$'\\t'*}
        found+=("$word")
        described+=("${word//:/\\\\:}:${line#*$'\\t'}")
    done < <("${(Q)words[1]}" __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( ! $#found )); then
        _files
    else
        @LIST@
    fi
}
compdef _pilot_agent pilot-agent
"""

_POWERSHELL: Final = """\
# powershell completion for pilot-agent
Register-ArgumentCompleter -Native -CommandName 'pilot-agent' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $typed = @($commandAst.CommandElements |
        Where-Object { $_.Extent.EndOffset -lt $cursorPosition -or $_.Extent.Text -ne $wordToComplete } |
        ForEach-Object { $_.Extent.Text })
    $before = @($typed | Select-Object -Skip 1)
    & $typed[0] __complete @before "$wordToComplete" 2>$null | ForEach-Object {
        $word, $description = $_ -split "`t", 2
        @LIST@
        [System.Management.Automation.CompletionResult]::new($word, $word, 'ParameterValue', $description)
    }
}
"""

_SCRIPTS: Final = {
    #        script       with descriptions                               without
    "bash": (_BASH, _BASH_LIST, ":"),
    "fish": (_FISH, r"string join \n -- $found", r"string replace -r '\t.*' '' -- $found"),
    "powershell": (_POWERSHELL, "if (-not $description) { $description = $word }", "$description = $word"),
    "zsh": (_ZSH, "_describe 'pilot-agent' described found", "compadd -- $found"),
}


def script(shell: str, *, descriptions: bool) -> str:
    """Return the script for one of the four shells."""
    text, with_descriptions, without = _SCRIPTS[shell]
    return text.replace("@LIST@", with_descriptions if descriptions else without)
