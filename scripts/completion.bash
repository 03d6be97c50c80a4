# Tab completion of `python train.py` and `python scripts/*.py`, in bash:   source scripts/completion.bash
#
# Hydra completes train.py, and Typer the scripts; each asks the program itself, which takes about a second.

_folio_complete() {
    local script=${COMP_WORDS[1]}
    COMPREPLY=()
    case "$script" in
        train.py | */train.py)
            # Hydra finds the words only behind a plain `python train.py`.
            local choices line="python train.py ${COMP_WORDS[*]:2:COMP_CWORD-1}"
            choices=$(COMP_LINE=$line COMP_POINT=${#line} "${COMP_WORDS[0]}" "$script" -sc query=bash 2> /dev/null)
            mapfile -t COMPREPLY < <(compgen -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}")
            compopt -o nospace 2> /dev/null
            ;;
        scripts/*.py | */scripts/*.py)
            ((COMP_CWORD > 1)) && mapfile -t COMPREPLY < <(
                _FOLIO_COMPLETE=complete_bash COMP_WORDS="${COMP_WORDS[*]:1}" COMP_CWORD=$((COMP_CWORD - 1)) \
                    "${COMP_WORDS[0]}" "$script" 2> /dev/null
            )
            ;;
    esac
}

COMP_WORDBREAKS=${COMP_WORDBREAKS//=/} # so that model=<Tab> completes as one word
complete -o default -F _folio_complete python python3
